"""All settings, from the environment only. `deploy/env.example` lists every variable; a test holds the two together.

Outside the lab (`CENOTE_LAB` unset) a missing or example secret stops the start.
"""

import sys
from pathlib import Path

import environ
from django.core.exceptions import ImproperlyConfigured

env = environ.Env()

BASE_DIR = Path(__file__).resolve().parent.parent
STATE_DIR = Path(env.str("CENOTE_STATE_DIR", default=str(BASE_DIR / "var")))
LAB = env.bool("CENOTE_LAB", default=False)
DEBUG = env.bool("CENOTE_DEBUG", default=False)

# Commands that look at code, not at a running cloud, may run without a secret.
_OFFLINE = {"makemigrations", "spectacular", "collectstatic"} & set(sys.argv[1:2]) or "mypy" in sys.modules
SECRET_KEY = env.str("CENOTE_SECRET_KEY", default="")
if _OFFLINE and not SECRET_KEY:
    SECRET_KEY = "offline-command-" + "0" * 40
if len(SECRET_KEY) < 32 or SECRET_KEY.startswith("change-me"):
    raise ImproperlyConfigured(
        "CENOTE_SECRET_KEY is missing, shorter than 32 characters, or still the example: set it to a random text "
        "(python3 -c 'import secrets; print(secrets.token_urlsafe(48))')."
    )

CLOUD_URL = env.str("CENOTE_URL", default="http://127.0.0.1:8470")
ALLOWED_HOSTS = env.list("CENOTE_ALLOWED_HOSTS", default=["127.0.0.1", "localhost", "[::1]", "nodeapi"])
if DEBUG and not LAB:
    raise ImproperlyConfigured("CENOTE_DEBUG is for the lab only: unset it, or set CENOTE_LAB=1.")

DATABASES = {
    "default": {
        **env.db_url("CENOTE_DATABASE_URL", default="postgres:///cenote"),
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {
            # A statement that takes longer than this holds others up; 503 is the better answer.
            "options": "-c statement_timeout=10000 -c lock_timeout=8000 -c idle_in_transaction_session_timeout=30000",
            "connect_timeout": 3,
            # Lets `tenants.prepared` prepare; Django's own cursors send text and never do.
            "prepare_threshold": 5,
        },
    }
}
ATOMIC_REQUESTS = False
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

BROKER_URL = env.str("CENOTE_REDIS_URL", default="")
NODE_BROKER_URL = env.str(
    "CENOTE_NODE_BROKER_URL", default=""
)  # template for hosts: {user} and {password} are filled in
CA_DIR = Path(env.str("CENOTE_CA_DIR", default=str(STATE_DIR / "ca")))
STORAGE_DIR = Path(env.str("CENOTE_STORAGE_DIR", default=str(STATE_DIR / "shared")))

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "django.contrib.humanize",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_htmx",
    "axes",
    "tenants",
    "compute",
    "cloud.api",
    "cloud.portal",
    "cloud.console",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "cloud.middleware.RequestIdMiddleware",
    "cloud.middleware.QueryTextMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "axes.middleware.AxesMiddleware",
]

ROOT_URLCONF = "cloud.urls"
WSGI_APPLICATION = "cloud.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]

AUTH_USER_MODEL = "tenants.User"
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 10},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
]
LOGIN_URL = "/login"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/login"

# Brute force: counted in the database, per user name and address; no header is trusted for the address.
AXES_FAILURE_LIMIT = 8
AXES_COOLOFF_TIME = 0.25  # hours
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_ON_SUCCESS = True
AXES_LOCKOUT_TEMPLATE = "portal/locked_out.html"
AXES_IPWARE_PROXY_COUNT = 0

_HTTPS = CLOUD_URL.startswith("https://")
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = _HTTPS
CSRF_COOKIE_SECURE = _HTTPS
CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_NAME = "cenote_session"
CSRF_COOKIE_NAME = "cenote_csrf"
CSRF_TRUSTED_ORIGINS = [CLOUD_URL]
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_HSTS_SECONDS = 31_536_000 if _HTTPS else 0
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "connect-src": ["'self'"],
        "frame-ancestors": ["'none'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "object-src": ["'none'"],
    }
}
DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024

STATIC_URL = "/static/"
STATIC_ROOT = STATE_DIR / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedStaticFilesStorage"},
}
WHITENOISE_USE_FINDERS = True

LANGUAGE_CODE = "en"
USE_I18N = False
USE_TZ = True
TIME_ZONE = "UTC"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["cloud.api.authentication.TokenAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["cloud.api.parsers.StrictJSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "cloud.api.exceptions.problem_handler",
    "UNAUTHENTICATED_USER": None,
    "NUM_PROXIES": 0,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Cenote API",
    "DESCRIPTION": "The private cloud's public API. Slow things answer 202 with an operation; errors are RFC 9457 problems.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/api/v1",
    # Enumerations stay where they are used: shared ones would get made-up names that change with every new one.
    "POSTPROCESSING_HOOKS": [],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": env.str("CENOTE_LOG_LEVEL", default="INFO")},
    "loggers": {"axes": {"level": "WARNING"}, "httpx": {"level": "WARNING"}, "sushy": {"level": "WARNING"}},
}

# Engine and host timings, in seconds. Leases and deadlines are counted on the database's clock.
OPERATION_DEADLINE_SECONDS = env.int("CENOTE_OPERATION_DEADLINE_SECONDS", default=900)
# A host that is silent for four heartbeats is suspect and its calls are anybody's again, for nine: down.
HEARTBEAT_SECONDS = min(max(env.int("CENOTE_HEARTBEAT_SECONDS", default=5), 1), 60)
HOST_CALL_LEASE_SECONDS = 4 * HEARTBEAT_SECONDS
HOST_SUSPECT_SECONDS = 4 * HEARTBEAT_SECONDS
HOST_DOWN_SECONDS = 9 * HEARTBEAT_SECONDS
SWEEP_SECONDS = 5
# How often all invariants are checked for the console.
BOOKS_SECONDS = 300
# How hosts are switched off when they are lost: see compute/fencing/registry.py.
FENCING_FILE = Path(env.str("CENOTE_FENCING_FILE", default=str(STATE_DIR / "fencing.toml")))
FLIGHT_RECORDER_MIB = env.int("CENOTE_FLIGHT_RECORDER_MIB", default=256)
