"""The daemon behind `dcsync run`: schedule, sessions, HTTP pages and systemd."""
