"""The schema's history, run by Alembic; a step that was released is never edited again."""
