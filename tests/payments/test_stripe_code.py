"""The code of Stripe: the webhook's path, the types that it acts on, where it asks; or that this is not known."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from opslib.payments import stripe_code
from opslib.payments.stripe_code import Code

CHECK = "const event = stripe.webhooks.constructEvent(req.body, req.headers['stripe-signature'], secret);"
ROUTER = f"router.post('/', raw, (req) => {{ {CHECK} }});"
STRIPE = ROUTER.replace("'/'", "'/stripe'")
APP = "const app = express();"


def code(folder: Path, files: Mapping[str, str]) -> Code:
    """What a release of these files is."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return stripe_code.read(folder)


@pytest.mark.parametrize(
    ("files", "paths"),
    [
        ({"app.js": f"{APP}\napp.post('/api/stripe/webhook', raw, (req) => {{ {CHECK} }});"}, ["/api/stripe/webhook"]),
        ({"app.js": f"{APP}\napp.use('/hooks/stripe', require('./hooks'));", "hooks.js": ROUTER}, ["/hooks/stripe"]),
        (  # over several lines, by a name, in TypeScript
            {
                "src/app.ts": "import hooks from './routes/hooks.js';\nconst app = express();\n"
                "app.use(\n  '/api/hooks',\n  express.raw({ type: () => true }),\n  hooks,\n);",
                "src/routes/hooks.ts": f"router.post(\n  '/stripe',\n  (req) => {{ {CHECK} }});",
            },
            ["/api/hooks/stripe"],
        ),
        (  # routers in each other, and the handler in a file of its own
            {
                "app.js": f"{APP}\napp.use('/api', require('./routes'));",
                "routes/index.js": "const hooks = require('./hooks');\nrouter.use('/webhooks', hooks);",
                "routes/hooks.js": "const { handle } = require('../controllers/stripe');\n"
                "router.post('/sendgrid', mail);\nrouter.post('/stripe', handle);",
                "controllers/stripe.js": f"exports.handle = (req) => {{ {CHECK} }};",
            },
            ["/api/webhooks/stripe"],
        ),
        (  # in a service that payments use too
            {
                "app.js": f"{APP}\napp.use('/api/pay', require('./pay'));\napp.use('/api/hooks', require('./hooks'));",
                "pay.js": "const service = require('./service');\nrouter.post('/stripe/intent', service.pay);",
                "hooks.js": "const stripe = require('./controller');\nrouter.post('/stripe', stripe.handle);",
                "controller.js": "const service = require('./service');",
                "service.js": f"exports.read = (req) => {{ {CHECK} }};",
            },
            ["/api/hooks/stripe"],
        ),
        (  # two that may be meant
            {"app.js": f"{APP}\napp.post('/v1/hook', h);\napp.post('/v2/hook', (req) => {{ {CHECK} }});"},
            ["/v1/hook", "/v2/hook"],
        ),
        # What cannot be read off is not known.
        ({"app.js": f"{APP}\napp.use(`${{BASE}}/hooks`, require('./hooks'));", "hooks.js": STRIPE}, []),
        ({"app.js": f"{APP}\napp.use(BASE, require('./hooks'));", "hooks.js": STRIPE}, []),
        ({"app.js": f"{APP}\napp.post('/hook/mail', mail);\napp.post(HOOK, raw, (req) => {{ {CHECK} }});"}, []),
        ({"hooks.js": f"router.post('/stripe', (req) => {{ {CHECK} }});"}, []),
        ({"app.js": f"{APP}\napp.post('/api/pay', pay);\napp.all('/hook', (req) => {{ {CHECK} }});"}, []),
        ({"app.js": f"{APP}\n// app.post('/api/stripe/webhook', (req) => {{ {CHECK} }});"}, []),
        ({"app.test.js": f"{APP}\napp.post('/api/stripe/webhook', raw, (req) => {{ {CHECK} }});"}, []),
    ],
)
def test_the_path_is_read_off_the_code_or_is_not_known(tmp_path: Path, files: dict[str, str], paths: list[str]) -> None:
    assert [*code(tmp_path, files).paths] == paths


def test_the_types_are_those_that_the_code_tells_from_others(tmp_path: Path) -> None:
    found = code(
        tmp_path,
        {
            "hooks.js": f"{CHECK}\nconst EFFECTS = {{ 'charge.refunded': refund }};\n// case 'charge.failed':\n"
            "console.log('server.js', 'invoice.made_up');\nif (event.type === 'invoice.paid') pay();",
            "service.ts": "switch (type) {\n  case 'payment_intent.succeeded':\n}\nsay('customer.created');",
            "setup.js": "stripe.webhookEndpoints.create({ enabled_events: ['payout.paid'] });",
            "hooks.test.js": f"{CHECK}\nsend('payment_intent.canceled');",
        },
    )
    assert [*found.handled] == ["charge.refunded", "invoice.paid", "payment_intent.succeeded"]
    assert str(found.handled["invoice.paid"]) == "hooks.js:5"


def test_a_host_is_the_clients_own_and_not_another_in_its_file(tmp_path: Path) -> None:
    text = (
        "const stripe = new Stripe(process.env.STRIPE_SECRET_KEY, { apiVersion: latest(), host: 'stripe.local' });\n"
        "const mail = createTransport({ host: 'smtp.example.com' });"
    )
    assert code(tmp_path, {"server.js": text}).hosts == {"stripe.local": "server.js"}
