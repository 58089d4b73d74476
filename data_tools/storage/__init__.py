"""Files and folders: local or remote, written atomically, locked, checked."""
