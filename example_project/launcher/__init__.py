"""What starts, watches and stops the processes of the demo."""
