"""The contract: what is said on the wire, where, and within which limits. All else imports this; it imports nothing of ours."""
