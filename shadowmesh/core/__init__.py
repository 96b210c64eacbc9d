"""The whole node, sans-I/O: datagrams, commands and `now` in; datagrams, events and one deadline out."""
