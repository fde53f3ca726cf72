const { Client } = require("@sendgrid/client");
const { MailService } = require("@sendgrid/mail");
const { sendgridApiBase, sendgridApiKey } = require("../config/env");
const logger = require("../logger");

const FROM = { email: "no-reply@propertypulse.example", name: "PropertyPulse" };

const client = new Client();
client.setApiKey(sendgridApiKey);
client.setDefaultRequest("baseUrl", `${sendgridApiBase}/`);

const mail = new MailService();
mail.setClient(client);

async function sendEmail({ to, subject, html }) {
  try {
    const [answer] = await mail.send({ to, from: FROM, subject, html });
    const messageId = answer.headers["x-message-id"];
    logger.info("Email sent successfully", { to, subject, messageId });
    return { success: true, messageId };
  } catch (error) {
    logger.error("❌ Email send failed", { to, subject, error: error.message, code: error.code });
    return { success: false, error: error.message };
  }
}

module.exports = { sendEmail };
