"""Who is a member: today the `peers:` of the configuration; sans-I/O."""
