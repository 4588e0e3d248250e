"""The stages behind the verbs: each reads, works in the store's work folder, and publishes one new version."""
