"""What a request and an event cost in gateways: ours and others, before one mock provider."""
