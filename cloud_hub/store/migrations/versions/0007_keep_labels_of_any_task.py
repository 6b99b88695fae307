"""Keep labels of any task: what was a class number is JSON"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

WHOLE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# The decimal digits of a whole number are its JSON, so no row has to be read.
NO_NUMBER = {
    "sqlite": "label GLOB '*[^0-9]*' OR length(label) > 18",
    "postgresql": "label !~ '^[0-9]{1,18}$'",
}


def upgrade() -> None:
    """Apply."""
    with op.batch_alter_table("sample") as batch_op:
        batch_op.alter_column("label", existing_type=WHOLE, type_=sa.Text(), postgresql_using="label::text")


def downgrade() -> None:
    """Undo: labels that are no class numbers are gone."""
    op.execute(f"UPDATE sample SET label = NULL WHERE {NO_NUMBER[op.get_bind().dialect.name]}")  # noqa: S608
    with op.batch_alter_table("sample") as batch_op:
        batch_op.alter_column("label", existing_type=sa.Text(), type_=WHOLE, postgresql_using="label::bigint")
