CREATE INDEX "payments_status_due_date_idx" ON "payments"("status", "due_date");
CREATE INDEX "payments_tenant_id_idx" ON "payments"("tenant_id");
