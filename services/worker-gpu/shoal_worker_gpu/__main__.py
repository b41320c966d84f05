from shoal_worker_gpu.app import main

main()
