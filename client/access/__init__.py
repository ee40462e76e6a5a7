"""Who calls, and what that caller may do: certificates, revocation, tokens, roles, one table."""
