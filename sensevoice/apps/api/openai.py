"""OpenAI's endpoints."""

from fastapi import APIRouter

router = APIRouter()
