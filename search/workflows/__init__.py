"""What each command does, without its printing: run, plan, finalize, rerun, export, suite. One file per workflow."""
