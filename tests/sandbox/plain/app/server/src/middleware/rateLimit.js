// So many requests of one address in so many minutes. Counted in memory: each process has its own count.
function limit({ minutes, max, message }) {
  const windowMs = minutes * 60 * 1000;
  const clients = new Map();

  setInterval(() => {
    const now = Date.now();
    for (const [address, client] of clients) {
      if (client.resetTime <= now) clients.delete(address);
    }
  }, windowMs).unref();

  return (req, res, next) => {
    const now = Date.now();
    let client = clients.get(req.ip);
    if (!client || client.resetTime <= now) {
      client = { hits: 0, resetTime: now + windowMs };
      clients.set(req.ip, client);
    }
    client.hits += 1;
    const seconds = Math.ceil((client.resetTime - now) / 1000);
    res.set("RateLimit-Limit", String(max));
    res.set("RateLimit-Remaining", String(Math.max(0, max - client.hits)));
    res.set("RateLimit-Reset", String(seconds));
    if (client.hits <= max) return next();
    res.set("Retry-After", String(seconds));
    res.status(429).json({ error: message, retryAfter: seconds });
  };
}

module.exports = {
  apiLimiter: limit({ minutes: 15, max: 200, message: "Too many requests, please try again later" }),
  authLimiter: limit({ minutes: 15, max: 10, message: "Too many login attempts, please try again later" }),
  paymentLimiter: limit({ minutes: 5, max: 20, message: "Too many payment requests, please try again later" }),
};
