"""What the integration tests share: a strict HTTP/1.1 reader, a raw client, a scripted origin, a running
daemon."""
