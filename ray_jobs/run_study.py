"""A study as a Ray job: `python run_study.py CONFIG --study DIR` is `affinity run` on the cluster the job runs on."""

import logging
import sys

from affinity_service.cli import main

if __name__ == "__main__":
    # A job's log is all one sees of it: a line per stage.
    logging.getLogger("affinity_service").setLevel(logging.INFO)
    sys.argv[1:] = ["run", *sys.argv[1:], "--address", "auto"]
    main()
