"""AWS: moto's server for S3, IAM and STS, which here checks presigned URLs too."""

import time
from calendar import timegm
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from moto.iam import access_control
from moto.server import main

from .layout import AWS, HOST


class S3Request(access_control.S3IAMRequest):
    """A request to S3 whose signature may stand in its address: moto alone looks for it in a header only."""

    def __init__(self, *, path: str, headers: Any, **request: Any) -> None:
        self.signed = dict(parse_qsl(urlsplit(path).query))
        self.presigned = "X-Amz-Signature" in self.signed
        if self.presigned:
            parts = (f"{name}={self.signed[f'X-Amz-{name}']}" for name in ("Credential", "SignedHeaders", "Signature"))
            headers = {**dict(headers), "Authorization": f"{self.signed['X-Amz-Algorithm']} {', '.join(parts)}"}
        super().__init__(path=path, headers=headers, **request)

    def check_signature(self) -> None:
        """Refuse a presigned URL that has expired, and any signature that is not right."""
        super().check_signature()
        if self.presigned:
            made = timegm(time.strptime(self.signed["X-Amz-Date"], "%Y%m%dT%H%M%SZ"))
            if time.time() > made + int(self.signed["X-Amz-Expires"]):
                self._raise_access_denied()

    def _calculate_signature(self) -> str:
        if not self.presigned:
            return super()._calculate_signature()
        auth = S3SigV4QueryAuth(self._access_key.create_credentials(), self._service, self._region)
        wanted = self.signed["X-Amz-SignedHeaders"].split(";")
        headers = {name: value for name, value in self._headers.items() if name.lower() in wanted}
        address = "&".join(part for part in self._path.split("&") if not part.startswith("X-Amz-Signature="))
        request = AWSRequest(method=self._method, url=address, headers=headers)
        request.context["timestamp"] = self.signed["X-Amz-Date"]
        signature: str = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
        return signature


if __name__ == "__main__":
    access_control.S3IAMRequest = S3Request  # type: ignore[misc, assignment]  # moto takes none
    main(["-H", HOST, "-p", str(AWS)])
