"""The documents that describe a network; ``clr.models`` builds it."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from clr.strict_model import Float, Int, StrictModel


class MlpParams(StrictModel):
    """Parameters of ``mlp``."""

    hidden: tuple[Annotated[int, Field(strict=True, ge=1, le=16_384)], ...] = Field(
        (256, 256), max_length=32, description="Units of each hidden layer."
    )
    dropout: Float = Field(0.0, ge=0, lt=1, description="Share of units dropped after each hidden layer while training.")


class SmallCnnParams(StrictModel):
    """Parameters of ``small_cnn``."""

    width: Int = Field(16, ge=1, le=1024, description="Channels of the first block; the next have 2 and 4 times as many.")


class ResNetParams(StrictModel):
    """Parameters of ``resnet`` (1512.03385, section 4.2)."""

    depth: Int = Field(20, ge=8, le=1202, description="6n + 2 layers: 8, 14, 20, 32, 44, 56, 110.")
    width: Int = Field(16, ge=1, le=1024, description="Channels of the first stage; the next have 2 and 4 times as many.")

    @model_validator(mode="after")
    def _depth_fits(self) -> Self:
        if (self.depth - 2) % 6:
            lower = self.depth - (self.depth - 2) % 6
            raise ValueError(f"depth must be 6n + 2, got {self.depth}: take {lower} or {lower + 6}")
        return self


class WideResNetParams(StrictModel):
    """Parameters of ``wide_resnet`` (1605.07146, table 1)."""

    depth: Int = Field(16, ge=10, le=1204, description="6n + 4 layers: 10, 16, 22, 28, 40.")
    widen: Int = Field(4, ge=1, le=64, description="Widening factor k: the stages have 16k, 32k and 64k channels.")
    dropout: Float = Field(0.0, ge=0, lt=1, description="Share dropped between the two convolutions of a block while training.")

    @model_validator(mode="after")
    def _depth_fits(self) -> Self:
        if (self.depth - 4) % 6:
            lower = self.depth - (self.depth - 4) % 6
            raise ValueError(f"depth must be 6n + 4, got {self.depth}: take {lower} or {lower + 6}")
        return self


class MlpConfig(StrictModel):
    """Fully connected network with ReLU; takes inputs of any shape, flattened."""

    architecture: Literal["mlp"]
    params: MlpParams = MlpParams()


class SmallCnnConfig(StrictModel):
    """Three 3x3 convolutions with batch norm and ReLU, max-pool after the first two, global average, linear."""

    architecture: Literal["small_cnn"]
    params: SmallCnnParams = SmallCnnParams()


class ResNetConfig(StrictModel):
    """CIFAR-style residual network with 6n + 2 layers (1512.03385, section 4.2)."""

    architecture: Literal["resnet"]
    params: ResNetParams = ResNetParams()


class WideResNetConfig(StrictModel):
    """Wide residual network with 6n + 4 layers (1605.07146)."""

    architecture: Literal["wide_resnet"]
    params: WideResNetParams = WideResNetParams()


ModelConfig = Annotated[MlpConfig | SmallCnnConfig | ResNetConfig | WideResNetConfig, Field(discriminator="architecture")]
