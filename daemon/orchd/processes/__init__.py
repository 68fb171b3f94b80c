"""Starting, watching and stopping processes of other programs."""
