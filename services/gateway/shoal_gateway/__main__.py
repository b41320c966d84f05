from shoal_gateway.app import main

main()
