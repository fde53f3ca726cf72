const { Router } = require("express");
const authenticate = require("../middleware/authenticate");
const { sendEmail } = require("../utils/email");

module.exports = Router().post("/test", authenticate, async (request, response) => {
  const to = request.body?.to ?? request.user.email;
  const result = await sendEmail({ to, subject: "PropertyPulse test message", html: "<p>Mail works.</p>" });
  response.status(result.success ? 202 : 502).json(result);
});
