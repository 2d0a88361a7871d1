"""The pages: each handler reads the database once and renders one template."""
