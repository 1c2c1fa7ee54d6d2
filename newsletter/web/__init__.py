"""The faces on the web: what subscribers meet (`public`), put together and guarded in `app`."""
