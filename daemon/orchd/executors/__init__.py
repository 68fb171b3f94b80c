"""What can execute a task; each module is one kind, `port` is what they share."""
