"""What a put, a next, an ack mean, and the doors through which they come."""
