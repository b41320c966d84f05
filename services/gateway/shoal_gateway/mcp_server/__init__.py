"""The gateway as an MCP server: tools and resources. Knows the SDK, not HTTP."""
