module.exports = function slowRequests(req, res, next) {
  const start = Date.now();
  res.on("finish", () => {
    const duration = Date.now() - start;
    if (duration > 1000) console.log(`🐌 Slow request: ${req.method} ${req.originalUrl} - ${duration}ms`);
  });
  next();
};
