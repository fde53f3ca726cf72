const { Client } = require("@sendgrid/client");
const { MailService } = require("@sendgrid/mail");

const client = new Client();
client.setApiKey(process.env.SENDGRID_API_KEY || "");
if (process.env.SENDGRID_API_BASE) client.setDefaultRequest("baseUrl", `${process.env.SENDGRID_API_BASE}/`);

const mail = new MailService();
mail.setClient(client);

const sendEmail = async ({ to, subject, html }) => {
  try {
    const from = { email: process.env.EMAIL_FROM || "no-reply@propertypulse.example", name: "PropertyPulse" };
    await mail.send({ to, from, subject, html });
    console.log(`📧 Email sent successfully to: ${to}`);
    return { success: true };
  } catch (error) {
    console.error("📧 Email send failed:", error);
    return { success: false, error: error.message };
  }
};

module.exports = { sendEmail };
