import sys

if sys.platform == "win32":
    raise ImportError("malmoi runs on Linux and macOS; on Windows within WSL, as on Linux")
