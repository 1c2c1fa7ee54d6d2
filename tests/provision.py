"""Sets up what the test suite needs besides Python packages: a Chromium.

Run by `make test`. As root it installs the Debian package, and says so; otherwise it says what to install, and the
tests that need it are skipped. With CI=true a missing component is a failure, never a skip.
"""

import os
import shutil
import subprocess
import sys

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> int:
    if any(map(shutil.which, BROWSERS)):
        return 0
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print("tests: installing Debian's chromium through apt-get, for the browser tests", flush=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update", "-qq"], ["install", "-y", "-qq", "chromium"]):
            subprocess.run(["apt-get", *command], env=environment, stdout=subprocess.DEVNULL, check=False)
        if any(map(shutil.which, BROWSERS)):
            return 0
    print("tests: no Chromium found; the browser tests need one (apt-get install chromium)", file=sys.stderr)
    return 1 if os.environ.get("CI") == "true" else 0


if __name__ == "__main__":
    sys.exit(main())
