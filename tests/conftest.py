"""What all tests share."""

import os

from hypothesis import settings

# people's runs look at new examples each time; the build's run is the same each time
settings.register_profile("build", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("build")
