from shoal_router.app import main

main()
