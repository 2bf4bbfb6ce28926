from affinity_service.cli import main

main()
