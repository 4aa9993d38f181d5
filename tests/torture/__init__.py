"""Kills, power cuts, broken disks and hostile answers, at random and by the hundred: `make torture`."""
