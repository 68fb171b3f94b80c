"""What can judge a result; each module is one kind, `port` is what they share."""
