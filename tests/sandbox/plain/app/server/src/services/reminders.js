const prisma = require("../prisma");
const { sendEmail } = require("../utils/email");

const INTERVAL = Number(process.env.REMINDER_INTERVAL_SECONDS || 300) * 1000;

let since = new Date(Date.now() - INTERVAL);

// What has come due since the last time. `sentAt` is for the landlord's page.
async function processDueReminders() {
  console.log("🔔 Processing due reminders...");
  try {
    const now = new Date();
    const from = since;
    since = now;
    const due = await prisma.reminderSchedule.findMany({
      where: { isActive: true, scheduledFor: { gt: from, lte: now } },
    });
    for (const reminder of due) {
      const html = `<p>${reminder.message}</p>`;
      const { success } = await sendEmail({ to: reminder.recipientEmail, subject: reminder.subject, html });
      if (success) await prisma.reminderSchedule.update({ where: { id: reminder.id }, data: { sentAt: new Date() } });
    }
    if (due.length > 0) console.log(`🔔 Sent ${due.length} reminders`);
  } catch (error) {
    console.error("❌ Reminder worker error:", error);
  }
}

function startReminderWorker() {
  if (process.env.REMINDERS === "false") {
    console.log("🔕 Reminders are off");
    return;
  }
  setInterval(processDueReminders, INTERVAL);
  processDueReminders();
}

module.exports = { startReminderWorker };
