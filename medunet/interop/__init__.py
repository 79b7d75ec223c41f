"""From and to the files of other programs."""
