"""The service as a script: `python serve.py ROOT` is `affinity serve ROOT`. A Serve config, such as a RayService's,
takes `ray_jobs.serve:build` or, the same, `affinity_service.service.deployment:build` as its import path."""

import sys

from affinity_service.service.deployment import build

__all__ = ["build"]

if __name__ == "__main__":
    from affinity_service.cli import main

    sys.argv[1:] = ["serve", *sys.argv[1:]]
    main()
