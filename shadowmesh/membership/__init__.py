"""Who is a member: `peers:` of the configuration, and what the authority of a network signed; sans-I/O."""
