from shoal_shard_store.app import main

main()
