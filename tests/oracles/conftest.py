"""The scripts here run in the oracles' environments, not in this one."""

collect_ignore_glob = ["record_*.py", "check_*.py"]
