"""What pages show, gathered from the rooms that know it and put into words."""
