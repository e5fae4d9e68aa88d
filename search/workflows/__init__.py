"""The actions behind the commands, without printing: run, plan, finalize, rerun, export, suite. One file per workflow."""
