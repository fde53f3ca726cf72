const express = require("express");

const app = express();
app.disable("x-powered-by");
app.use(require("./middleware/timing"));
app.use(require("./routes/health"));
// Before express.json(), which would consume the bytes that the signature is over.
app.use("/api/webhooks", require("./routes/webhooks"));
app.use(express.json());
app.use("/api/auth", require("./routes/auth"));
app.use("/api/properties", require("./routes/properties"));
app.use("/api/payments", require("./routes/payments"));
app.use("/api/uploads", require("./routes/uploads"));
app.use("/api/email", require("./routes/email"));
app.use((request, response) => response.status(404).json({ error: "Not found" }));
app.use(require("./middleware/failure"));

module.exports = app;
