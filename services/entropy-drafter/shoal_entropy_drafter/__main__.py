from shoal_entropy_drafter.app import main

main()
