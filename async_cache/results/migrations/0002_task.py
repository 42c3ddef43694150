"""`Task`: the rows of task results with decoded values; no table of its own."""

from typing import ClassVar

from django.db import migrations


class Migration(migrations.Migration):
    """Tell the migrations of the proxy."""

    dependencies: ClassVar = [("async_cache_results", "0001_initial")]

    operations: ClassVar = [
        migrations.CreateModel(
            name="Task",
            fields=[],
            options={"proxy": True, "indexes": [], "constraints": []},
            bases=("async_cache_results.taskmeta",),
        ),
    ]
