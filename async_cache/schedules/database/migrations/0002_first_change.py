"""Note a first change, so that a beat that is running then takes the next one for a change."""

from django.db import migrations, router
from django.utils import timezone


def note_change(apps, schema_editor):
    alias = schema_editor.connection.alias
    changes = apps.get_model("django_celery_beat", "PeriodicTasks")
    if router.allow_migrate_model(alias, changes):
        changes.objects.using(alias).get_or_create(
            ident=1, defaults={"last_update": timezone.now()}
        )


class Migration(migrations.Migration):
    dependencies = [("async_cache_schedules_database", "0001_initial")]

    operations = [migrations.RunPython(note_change, migrations.RunPython.noop, elidable=True)]
