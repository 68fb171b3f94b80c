"""What the tests share: real servers, factories and signals to wait for."""
