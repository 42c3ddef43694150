"""The ASGI entry point: one server for the plain views and the async one."""

import os

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demo_site.settings")

# A demo serves its two static files itself. In production the web server does that.
application = ASGIStaticFilesHandler(get_asgi_application())
