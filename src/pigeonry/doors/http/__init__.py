"""The way in by HTTP: the Mailgun-shaped API as an ASGI application (``app.HttpDoor``)."""
