"""A worker that dies as the library does when it aborts."""

import os

os.abort()
