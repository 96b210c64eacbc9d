"""The local web page of a running client: `server` serves it, `upstream` asks the client, `page` is the page.

Reads only what the client's local API tells whoever runs the dashboard; it changes nothing.
"""
